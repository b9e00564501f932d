"""The commands, one file a noun. They are the face: each reads its options, asks for the work, prints the result."""
