"""Data: what a source holds, as uint8 arrays in memory."""
