"""Six exchanges emulated on loopback, with faults by script; knows no codec of the daemon's."""
