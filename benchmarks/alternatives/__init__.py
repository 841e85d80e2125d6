"""What a user would pick instead, written as its own users write it."""
