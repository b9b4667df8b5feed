"""What ``doctor`` looks at. Each module knows one part of the machine; none of them changes anything that lasts."""
