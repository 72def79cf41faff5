"""What the rows were made with: lock, dataset card, staging export."""
