"""How the gate is shown and served: today at a terminal."""
