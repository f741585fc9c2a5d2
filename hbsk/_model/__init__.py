"""What a formula and its rows mean: terms, columns, designs and priors, as plain data."""
