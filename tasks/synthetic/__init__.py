"""People who never were: identities, domains, drawings and captions made from integers.

Nothing in this package imports torch, so that the processes that draw start quickly.
"""

GENERATOR_VERSION = 2
"""Part of every cache key and protocol lock: raise it with any change of a drawing or a caption."""
