"""Dialects: the APIs of other image services, translated to jobs of this one."""
