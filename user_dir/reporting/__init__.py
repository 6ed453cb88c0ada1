"""What a run did: its statistics, and a page that shows them."""
