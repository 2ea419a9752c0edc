"""The watch over what every active site really serves (beside the role scheduler)."""
