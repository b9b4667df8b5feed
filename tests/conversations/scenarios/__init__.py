"""What reaches one end in each conversation; what it must do then is not said here (see ``make.py``)."""
