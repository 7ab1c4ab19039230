from experiments.optimisers.run import main

main()
