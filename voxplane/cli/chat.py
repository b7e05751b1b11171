"""`voxplane chat`: a text session on a node of this machine."""
