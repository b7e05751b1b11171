"""The tour: twenty seconds from a committed change to a call that speaks it."""
