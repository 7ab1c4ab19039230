from experiments.decentralized.run import main

main()
