"""How much can it take: more than its most, for hours, on how many machines?"""
