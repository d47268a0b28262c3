"""Proteus: serve ML inference on a fixed set of devices by scaling accuracy.

Reference: Ahmad et al., *Proteus: A High-Throughput Inference-Serving System with Accuracy Scaling*, ASPLOS 2024.
"""

__version__ = "0.1.0"
