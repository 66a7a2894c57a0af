"""Views of images, feature extraction, and the cache of feature maps."""
