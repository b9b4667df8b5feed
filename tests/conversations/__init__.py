"""Whole conversations of one end: made from the table of the protocol, played against any end behind the adapter."""
