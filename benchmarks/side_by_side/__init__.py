"""Printworks beside what people would otherwise use: same model, jobs and machine, in turns."""
