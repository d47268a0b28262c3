"""What adaptation is worth on this machine, and how fast it is: live servers, static plans, the simulator."""
