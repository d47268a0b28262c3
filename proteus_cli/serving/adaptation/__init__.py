"""Changes of plans and profiles while the server runs, by the demand, devices, people, labels and the catalog.

`control_loop.ControlLoop` puts plans in force, and has one operation for a changed world. All other modules call it.
"""
