"""Methods to steer by: each is fitted on prompts and gives interventions, with a record of what was chosen and how."""
