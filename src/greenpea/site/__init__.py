"""The site: volunteers classify, the team watches and exports. Never imports torch."""
