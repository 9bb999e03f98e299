"""One codec an exchange; none of them knows another."""
