"""What parties do so that others learn less. Needs the package `cryptography`, imported by whoever uses it."""
