"""From a fresh Debian host to one that can be deployed to, and nothing where it is one already.

One look at a host; from that, and from the environment, pure functions say what has to change
(`plan`); that is carried out, and a second look must find nothing left to do. A change is data:
`--plan` prints what a run would execute.

It never touches the firewall, and no file that a person made.
"""
