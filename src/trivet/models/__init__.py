"""Names to weights or endpoints, the engines, and the operations that programs ask of them."""
