"""How fast does it answer, where does the time go, and how fast are others?"""
