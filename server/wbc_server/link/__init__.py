"""The coordinator's side of the federation: enrolment, certificates, gateway and the processes that serve a study."""
