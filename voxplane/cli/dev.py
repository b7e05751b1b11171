"""`voxplane dev`: a control plane, a node and the demo tenant on this machine."""
