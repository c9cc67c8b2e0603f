"""What is measured: sample quality, bits per dimension, throughput."""
