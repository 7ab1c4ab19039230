"""What a party is and how parties work together. Knows no algorithm; needs torch, numpy and msgspec."""
