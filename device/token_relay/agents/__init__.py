"""The programs at either end of the relay: the phone's agent, the companion's agent, their vault and command line."""
