"""What several tests share beside fixtures: made-up tweets, clones, servers that stand in for others."""
