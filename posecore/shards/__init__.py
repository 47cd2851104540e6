"""The shard format: members, masks, index, manifest, and random access to them."""
