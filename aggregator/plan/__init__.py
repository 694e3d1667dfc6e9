"""What a change of the configuration would do, seen before it holds: in words, and in figures of a past range.

changes    what differs, in words for whoever reviews it
cutovers   how customers who move between sinks stand with a change
meaning    what a change within a sink, a source or a mapping means for what is billed
usage      what one definition of a meter makes of a range, customer by customer; and two of them beside each other
reading    asks a source by the old and by the new definition, in one snapshot where it has one
document   the plan as JSON, and whether what it was made of still holds
markdown   the plan as a comment on a pull request

It sees no sink and plans no event (that is `core/planner`). It stands on sources, the configuration's words and the core;
the wiring and commands import it. Begin with `changes`, then `reading`."""
