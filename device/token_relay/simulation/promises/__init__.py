"""The promises that must hold at every step of every history; their checks see what no end can see."""
