"""The voice part of `voxplane dev --tour`: a LiveKit server and a caller."""
