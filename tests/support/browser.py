"""How the tests drive Chromium."""

# Chromium asks Google's hosts for this and that, where one lets it.
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"]
BROWSER_WAITS = 300_000  # milliseconds, for what a click or a text brings: only a hang takes longer
