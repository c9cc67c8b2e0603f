"""noisebench: how good, how likely and how fast the samples of an image generator are.

    noisebench run digits          train, measure and write the comparison report
    noisebench plan digits         what that would do, and what is done already

This package is the harness; `models` holds the mathematics and `kernels` the fused operations.
Importing it is cheap: torch is loaded only where something is computed.
"""

__version__ = "0.1.0"
