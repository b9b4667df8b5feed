"""What must hold at every step of every history, checked by observers that see what no end can see."""
