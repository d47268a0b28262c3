"""What was measured of variants on devices, and what follows: capacity, energy and cost, deferral, interference."""
