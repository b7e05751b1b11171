"""The control plane: log, state, watch and fleet."""
