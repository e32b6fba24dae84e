"""From a checkpoint's parts, the publisher's words and the version it builds on, to one artifact."""
