"""Pictures that clients send: from bytes that nobody vouches for to stored, plain pixels."""
