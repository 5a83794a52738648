"""Every check of `fsq doctor`: in order, and with what it looks for really broken."""
