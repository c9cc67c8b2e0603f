"""Drivers decide who computes the shards; what a shard is does not depend on them."""
