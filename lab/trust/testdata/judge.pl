# Judges the messages in files with Mail::DKIM: one line each, with the result
# of every signature and that of the ARC chain. The first two arguments are the
# address and port of the DNS server.
use strict;
use warnings;
use Mail::DKIM::Verifier;
use Mail::DKIM::ARC::Verifier;
use Mail::DKIM::DNS;
use Net::DNS;

my ( $address, $port, @files ) = @ARGV;
Mail::DKIM::DNS::resolver(
    Net::DNS::Resolver->new( nameservers => [$address], port => $port, recurse => 1 ) );
for my $file (@files) {
    open my $in, '<:raw', $file or die "$file: $!";
    local $/;
    my $message = <$in>;
    my $dkim    = Mail::DKIM::Verifier->new();
    $dkim->PRINT($message);
    $dkim->CLOSE;
    my $arc = Mail::DKIM::ARC::Verifier->new();
    $arc->PRINT($message);
    $arc->CLOSE;
    print join( ' ', $arc->result, map { $_->result } $dkim->signatures ), "\n";
}
