"""Records to shards: stages, shard writer, manifest, quarantine, audit."""
