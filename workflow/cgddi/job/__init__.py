"""What a stage's process needs: its spec, the device, memory, a GPU lease."""
