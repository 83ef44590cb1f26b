"""What each adapter is taught: template families and the words that fill them."""
