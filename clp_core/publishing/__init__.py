"""Models taken away: exported as plain folders, pushed to the Hub."""
